"""What prepare and convert return, under the reference's paths."""
