"""Teams of small transformers: training, evaluation, transcripts, comparison of methods."""
