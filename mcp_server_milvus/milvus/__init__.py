"""Everything that knows pymilvus and Milvus Lite. No other folder imports them."""
