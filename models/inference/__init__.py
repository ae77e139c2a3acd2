"""Cached decoding of a transformer: `nqs.models.inference.decoder.Decoder` is what the rest of the package sees."""
