// What every page needs: its live connection, its drawings, its dialogs, its clock, its theme.
import "./live.js";
import "./region.js";
import "./drawing.js";
import "./dialog.js";
import "./clock.js";
import "./theme_switch.js";
import "./copy.js";
