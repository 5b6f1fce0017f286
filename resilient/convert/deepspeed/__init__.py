"""DeepSpeed's checkpoints: ZeRO of stages 1, 2 and 3 is read, the universal checkpoint read and written."""
