"""Keep: collections over volumes, block servers and clusters."""
