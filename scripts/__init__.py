"""Scripts, one a Hamiltonian: to be run as they are, by `nqs run NAME`, or copied and edited."""
