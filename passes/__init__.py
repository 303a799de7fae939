"""The passes that ship with ecograph, one folder per method, each with a method card."""
