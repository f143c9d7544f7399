"""PPCA and linear VAEs: closed forms, streaming moments, training against them, and estimators."""
