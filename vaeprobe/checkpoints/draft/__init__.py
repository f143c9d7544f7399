"""A first blueprint from the names and shapes of tensors: a guess, and marked as one.

Shapes tell which layers there are and how many channels they have; that they follow one another in the order of the
file is likely; activations, strides, paddings and reshapes leave no trace in tensors.  A pickled module records them
(`Recorded`), and where its parts stand in a Sequential their order too; numbers that a Sequential skips are layers
without tensors.  What is assumed, and every layer that has no place, is written into the TOML and listed in
`Blueprint.assumptions`, and every report that rests on a draft repeats it.
"""
