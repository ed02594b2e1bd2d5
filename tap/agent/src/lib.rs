//! The tap: protects disks, serves them, and sends every write to its CX.
