"""The zoo: networks of triggers and sensors, the generators of their data, and training recipes."""
