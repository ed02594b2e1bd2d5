//! Files and devices: block devices over files, crash-safe small files, recycled segment files, the real clock.
