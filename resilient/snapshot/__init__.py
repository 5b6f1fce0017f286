"""Snapshots as bytes and files: images, manifests, durable writes, the catalog and retention. No torch."""
