"""Embeddings of texts: who computes them, and which vector field was computed by whom. Knows no Milvus."""
