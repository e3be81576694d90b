"""Makes golden images: a full plan on a server from the stock image, a snapshot, and a proof launch."""
