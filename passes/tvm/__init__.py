"""What Relax and Relay share: layouts, stored weights, constants. Imports no TVM."""
