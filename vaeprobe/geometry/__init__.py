"""Jacobians, Gram matrices and what follows from them."""
