"""What a mix is made from: slices, their texts, the tokenizer, evaluation suites, contamination."""
