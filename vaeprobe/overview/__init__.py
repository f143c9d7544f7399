"""Everything on one model: all probes and a traversal, as one page."""
