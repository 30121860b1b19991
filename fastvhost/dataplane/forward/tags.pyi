"""Tags of frames: which VLAN a frame is in, and how it leaves. No Python face: workers call it."""
