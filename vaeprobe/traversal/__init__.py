"""What each latent does: outputs along it, beside its column of the Jacobian."""
