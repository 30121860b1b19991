"""What a sender leaves to the network card, and what is done about it where the receiver takes no such frames."""
