"""Records as brokers hand them over: parsed past whatever is damaged or hostile in them."""
