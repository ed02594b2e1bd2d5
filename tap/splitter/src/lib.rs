//! The splitter: pass a write through, give it its LSN in disk order, know what must be copied again.
