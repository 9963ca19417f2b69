"""DEDOS Deploy as a lifecycle node of ROS 2."""
