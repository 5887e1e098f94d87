"""What text is made of: words, sentences, chunks to embed and snippets to read. Standard library only."""
