"""Teams of small transformers with one shared transcript: enumerated exactly, trained, and monitored."""
