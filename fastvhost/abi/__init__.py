"""What the specifications fix: .pxd and .h only, no logic."""
