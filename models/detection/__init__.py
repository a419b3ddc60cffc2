"""What GLIP, ViLD and their successors share: boxes, NMS, the `Detections` result, its drawing
and its exports. Nothing here knows a network."""
