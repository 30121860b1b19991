"""Lanes that leave the rounds while they are quiet, and come back by their kick. For the data plane only."""
