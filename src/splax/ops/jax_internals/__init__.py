"""Everything that splax uses of JAX beyond its public interface, in one place."""
