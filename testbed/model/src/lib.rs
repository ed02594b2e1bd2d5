//! The oracle: replays every record into memory, obviously correct.
