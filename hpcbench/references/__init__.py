"""References of others that a potential is validated against: phonons of DFT, labels, stores."""
