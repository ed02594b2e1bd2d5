//! Segments and the fjall index: append, commit, index, recover, read.
