"""What every service stands on: messages, documents, fleet description, clock, consumer, AWS adapters."""
