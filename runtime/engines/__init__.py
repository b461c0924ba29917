"""TensorRT engines: what they are built for, how they are built, and where they are kept."""
