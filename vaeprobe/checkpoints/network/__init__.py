"""From a blueprint and tensors to a network of modules, and back.

`assemble` makes each layer of the file's own tensors, without copying them, and passes a batch of no rows through it:
that checks every shape, and explains a wrong blueprint, before anything is computed.  `describe` goes the other way.
"""
