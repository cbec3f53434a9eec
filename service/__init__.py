"""Online: loads a bundle and answers each row at the first exit that is sure enough."""
