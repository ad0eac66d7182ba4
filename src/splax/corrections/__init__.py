"""What photos differ by although the scene does not: exposure, poses, intrinsics; learned along with it."""
