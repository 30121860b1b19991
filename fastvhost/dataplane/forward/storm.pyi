"""Storm control: how many frames a second a port may send to everybody. For the data plane only."""
