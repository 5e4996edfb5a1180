"""Ask a language model, here or on a server, through one small interface: see `contract`."""
