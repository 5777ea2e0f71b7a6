"""One thin module for each stage: reads its inputs, calls the core, writes its outputs."""
