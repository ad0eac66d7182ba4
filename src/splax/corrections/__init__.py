"""Corrections of what differs between photos of one scene: exposure, poses, intrinsics.

They are learned along with the scene.
"""
