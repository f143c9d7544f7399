"""Bytes in, checked structures out: containers, pickles, arrays; nothing in a file is executed, nothing here needs torch."""
