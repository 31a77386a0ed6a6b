"""Ready-made predictions of whole datasets: copy one and edit the copy."""
