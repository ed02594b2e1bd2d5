//! The HTTP API as types: resources, paths, problems, jobs.
