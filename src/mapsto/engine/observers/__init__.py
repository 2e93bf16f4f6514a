"""The observers that come with mapsto, one a file; each is imported when it is named."""
