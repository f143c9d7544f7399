"""What a posterior and a likelihood say about each other: moments under q(z|x), the ELBO, beta, overlap."""
