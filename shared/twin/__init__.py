"""Twin documents: the rules of device shadows, and the merge of two writers. Pure."""
