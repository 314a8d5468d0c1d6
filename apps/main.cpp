#include "program.hpp"

int main(int argc, char** argv) { return graticule::apps::run_program(argc, argv); }
