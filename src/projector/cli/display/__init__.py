"""Tables, sentences and local times that the commands print."""
