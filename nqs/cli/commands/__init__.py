"""The commands of `nqs`, one file each."""
