//! Points, region maps, read plans and overlays: how a moment becomes a disk.
