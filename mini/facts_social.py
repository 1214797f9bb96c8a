"""What people do, feel and want in the world of `mini`: situations, activities, opposites and the reasons of things."""

# ruff: noqa: E501 (a row of a table is one line)
from __future__ import annotations

# what A did to or for B ({a}, {b}) | how A feels | how B feels | what A wants next | what A is like
SITUATIONS = """
gave {b} a birthday present | happy | grateful | see {b} open it | generous
helped {b} carry heavy bags | useful | thankful | set the bags down | kind
broke {b}'s favorite cup | guilty | upset | say sorry | clumsy
forgot to meet {b} at the station | ashamed | annoyed | explain what happened | forgetful
told {b} a funny story | cheerful | amused | tell another one | funny
took {b}'s seat without asking | careless | angry | keep the seat | rude
shared lunch with {b} | glad | full | eat together | generous
won the race against {b} | proud | disappointed | celebrate | fast
lost the game to {b} | disappointed | proud | practice more | a good sport
taught {b} to swim | proud | confident | watch {b} swim | patient
lied to {b} about the money | nervous | betrayed | hide the truth | dishonest
found {b}'s lost dog | pleased | relieved | bring the dog home | helpful
shouted at {b} in the street | sorry | hurt | calm down | bad-tempered
visited {b} in the hospital | worried | comforted | cheer {b} up | caring
invited {b} to a party | excited | welcome | plan the food | friendly
borrowed {b}'s bike and lost it | guilty | upset | buy a new bike | careless
stayed up all night to help {b} study | tired | prepared | get some sleep | loyal
thanked {b} for the help | grateful | appreciated | return the favor | polite
ignored {b} at school | cold | lonely | talk to others | unkind
saved {b} from the river | relieved | thankful | get dry clothes | brave
made soup when {b} was ill | caring | comforted | wash the bowls | caring
paid {b} back at last | relieved | satisfied | stay out of debt | honest
laughed at {b}'s mistake | sorry | embarrassed | say sorry | unkind
asked {b} for advice | hopeful | respected | follow the advice | thoughtful
promised {b} a trip to the sea | excited | excited | buy tickets | generous
cheated {b} at cards | nervous | angry | hide the cards | dishonest
wrote {b} a long letter | hopeful | pleased | get an answer | thoughtful
scared {b} with a mask | amused | frightened | take off the mask | playful
painted {b}'s fence | tired | grateful | rest in the shade | hardworking
waited an hour for {b} | impatient | sorry | go inside | patient
forgave {b} after the fight | calm | relieved | be friends again | forgiving
showed {b} the way home | useful | relieved | go home too | helpful
ate the last piece of {b}'s cake | guilty | annoyed | bake a new cake | greedy
sang {b} to sleep | calm | sleepy | close the door softly | gentle
moved far away from {b} | lonely | sad | write letters | adventurous
stood up for {b} against a bully | strong | protected | make sure {b} is safe | brave
hid {b}'s shoes as a joke | amused | confused | give the shoes back | playful
cooked dinner for {b} | satisfied | full | clean the kitchen | kind
beat {b} to the last ticket | lucky | disappointed | see the show | quick
interrupted {b} many times | impatient | ignored | say something important | rude
returned {b}'s lost purse | honest | relieved | go on with the day | honest
dropped {b}'s books in the mud | sorry | upset | clean the books | clumsy
"""

# activity: steps in order, each a clause without its subject, separated by ";"
ACTIVITIES = """
making tea: fills the kettle with water; puts the kettle on the stove; waits until the water boils; pours the water over the leaves; adds some honey; drinks the hot tea
baking bread: mixes flour, water and yeast; kneads the dough; lets the dough rise; puts the loaf in the oven; takes out the golden bread; cuts the first warm slice
planting a tree: digs a deep hole; sets the young tree in it; fills the hole with soil; presses the soil down; waters the tree well; ties it to a stick
washing a dog: fills a tub with warm water; lifts the dog into the tub; rubs soap into its fur; rinses the soap away; dries the dog with a towel; brushes its clean fur
painting a fence: scrubs the old fence; opens a can of paint; dips the brush in the paint; paints each board; lets the paint dry; puts on a second coat
mailing a letter: writes a letter to a friend; folds the page; puts it in an envelope; writes the address; sticks on a stamp; drops it in the mailbox
catching a fish: walks to the river; puts a worm on the hook; throws the line into the water; feels a pull on the line; reels the fish in; puts it in a bucket
building a snowman: rolls a big ball of snow; rolls a smaller ball; puts one ball on the other; adds a carrot for a nose; ties a scarf around its neck; steps back to look at it
fixing a flat tire: turns the bicycle over; takes off the wheel; pulls out the tube; glues a patch on the hole; pumps up the tire; rides down the street
making a fire: gathers dry sticks; stacks them in a ring of stones; puts paper under the sticks; lights a match; blows on the small flame; warms both hands
cooking soup: chops carrots and onions; puts them in a pot of water; adds salt and beans; lets the pot simmer; tastes a spoonful; serves the soup in bowls
sewing a button: picks a button that fits; threads the needle; pushes the needle through the cloth; sews the button on; ties a knot; cuts off the thread
going to bed: puts on pajamas; brushes both rows of teeth; gets under the blanket; reads a few pages; turns off the lamp; falls asleep
taking a train: buys a ticket; walks to the platform; waits for the train; gets on the train; finds a seat by the window; watches the fields go by
flying a kite: goes to a windy hill; unrolls the string; holds the kite up high; runs into the wind; lets out more string; watches the kite climb
washing dishes: scrapes off the plates; fills the sink with hot water; adds some soap; scrubs each dish; rinses off the foam; sets the dishes out to dry
milking a cow: leads the cow to the barn; sits on a low stool; puts a pail under the cow; milks the cow; carries the full pail to the house; pours the milk into jars
picking apples: sets a ladder by the tree; climbs the ladder; picks the ripe apples; puts them in a basket; climbs down with care; carries the basket home
putting on a play: learns the lines; sews a costume; steps onto the stage; speaks in a clear voice; bows to the crowd; hears loud clapping
building a shelf: measures the wall; saws two boards; sands the rough edges; nails the boards together; hangs the shelf; puts books on it
climbing a hill: ties both boots; follows the steep path; stops for a drink; reaches the top; looks over the valley; walks back down
getting a haircut: sits in the tall chair; gets a cloth around the neck; tells the barber how short; hears the scissors snip; looks in the mirror; pays the barber
borrowing a book: goes to the library; looks along the shelves; picks a thick book; shows a library card; takes the book home; reads it in three days
cleaning a room: picks up the toys; makes the bed; dusts the shelf; sweeps the floor; empties the bin; opens the window
making jam: washes the berries; boils them with sugar; stirs the pot for a long time; fills clean jars; closes the lids; stores the jars in the pantry
playing hide and seek: covers both eyes; counts to twenty; looks behind the door; hears a quiet laugh; finds a friend under the bed; hides in the next round
seeing the doctor: sits in the waiting room; hears a name called; tells the doctor where it hurts; opens wide and says ah; takes a note to the pharmacy; buys the medicine
rowing a boat: pushes the boat off the sand; sits down in the middle; takes an oar in each hand; rows across the lake; ties the boat to the dock; steps onto dry land
doing laundry: sorts the dirty clothes; fills the tub with soapy water; scrubs the shirts; wrings them out; hangs them on the line; folds the dry clothes
setting a table: spreads a clean cloth; puts out the plates; lays a fork by each plate; fills the glasses; lights a candle; calls everyone to dinner
"""

OPPOSITES = """
hot cold; big small; tall short; fast slow; old young; light heavy; happy sad; wet dry; full empty; hard soft; clean dirty; rich poor;
early late; near far; open closed; high low; deep shallow; wide narrow; thick thin; strong weak; loud quiet; bright dim; sweet bitter;
smooth rough; sharp dull; brave afraid; kind cruel; busy idle; awake asleep; right wrong; true false; first last; begin end; push pull;
buy sell; give take; win lose; laugh cry; rise fall; arrive leave; remember forget; find miss; build destroy; lend borrow; inside outside;
above below; before after; day night; summer winter; north south; east west; friend enemy; question answer; war peace; cheap expensive;
safe dangerous; polite rude; lazy hardworking; tight loose; straight crooked; fresh stale; simple difficult; ancient modern; generous greedy
"""

# why someone does a thing: action | reason
REASONS = """
puts on a coat | it is cold
opens an umbrella | it is raining
drinks a glass of water | thirst
eats a sandwich | hunger
goes to bed early | tiredness
takes a pill | a headache
calls the fire station | a house is on fire
turns on the lamp | it is dark
opens the window | the room is stuffy
whispers | a baby is asleep
runs to the station | the train leaves soon
wears boots | the path is muddy
covers both ears | the noise is loud
puts on sunglasses | the sun is bright
washes both hands | they are dirty
saves money each week | a wish for a new bicycle
studies all evening | there is a test tomorrow
locks the door | fear of thieves
buys flowers | it is a friend's birthday
holds the rail | the stairs are steep
adds sugar to the tea | it tastes bitter
puts the milk in the refrigerator | to keep it fresh
waters the roses | the soil is dry
shovels the path | snow has fallen
puts oil on the hinge | the door squeaks
ties the boat to the dock | so that it does not drift away
wears a helmet | to protect the head
looks at a map | the way is not known
asks a question | something is not clear
takes an umbrella back | it belongs to a neighbor
sets an alarm | to wake up in time
wraps the cups in paper | so that they do not break
"""

# the two-option pronoun scheme: sentence with {x}, {y} and the blank _ | word making x the answer | word making y the answer | pairs x/y
# ({w} is replaced by one of the two words; the pairs hold both readings)
PRONOUNS = """
The {x} did not fit in the {y} because the _ was too {w}. | big | small | violin/suitcase; lamp/box; coat/bag; book/pocket; drum/trunk; puzzle/drawer; doll/basket; clock/box
We could not pour all of the {x} into the {y} because the _ was too {w}. | plentiful | small | milk/bottle; soup/bowl; water/bucket; juice/jar; tea/cup; paint/can; oil/jug; honey/pot
The {x} broke the {y} when it fell because the _ was so {w}. | heavy | thin | hammer/plate; stone/window; kettle/cup; axe/mirror; brick/bowl; pot/shelf; bell/table; trunk/chair
The {x} could not pull the {y} because the _ was too {w}. | weak | heavy | goat/cart; pony/wagon; dog/sled; boy/boat; tractor/tree; girl/trunk; horse/log; man/plow
The {x} chased the {y} but never caught up, for the _ was too {w}. | slow | quick | cat/mouse; fox/rabbit; dog/deer; bear/goat; turtle/frog; wolf/horse; boy/bird; man/train
"{n1} paid {n2} for the {x} because _ had {w} it." | ordered | sold | bread/bread
{n1} asked {n2} for help because _ was {w}. | lost | wise | map/map
{n1} lent {n2} some money because _ was {w}. | rich | poor | coin/coin
{n1} thanked {n2} because _ had {w}. | been helped | given help | gift/gift
{n1} beat {n2} in the race because _ ran {w}. | faster | slower | race/race
{n1} visited {n2} in the hospital because _ felt {w}. | worried | ill | bed/bed
{n1} taught {n2} to read because _ was a {w}. | teacher | pupil | book/book
{n1} could not see the stage behind {n2} because _ was too {w}. | short | tall | hat/hat
{n1} apologized to {n2} because _ had been {w}. | rude | hurt | word/word
{n1} carried {n2} across the stream because _ was {w}. | strong | small | stream/stream
"""

FIRST_NAMES_F = "Anna Mia Rosa Ella Nora Lucy Clara Ida Emma Ruth Lena Olga Sara Tess June Ivy Maya Kate Alma Dora Zoe Hana Wanda Paula"
FIRST_NAMES_M = (
    "Tom Ben Sam Max Leo Jack Paul Otto Karl Finn Hugo Adam Ivan Omar Luke Noah Eric Dan Joel Rafi Theo Mark Sven Abel"
)

# people of the towns differ in these
TOWNS = "Milford Oakham Redhill Stonby Larkdale Fernley Westmoor Brightwater Harrow Elmstead Kingsport Dunvale Ashby Coldwell"
RIVERS = "Arrow Linden Tamsel Mirra Oster Calla Wend Sable Norrin Beck Silver Dale Fenn Hollow"
REGIONS = ("the north", "the south", "the east", "the west", "the hills", "the coast")
TOWN_GOODS = (
    "wool",
    "glass",
    "cheese",
    "apples",
    "coal",
    "fish",
    "paper",
    "clay pots",
    "honey",
    "boats",
    "shoes",
    "clocks",
    "wine",
    "rope",
)
TOWN_SIGHTS = (
    "a tall clock tower",
    "an old stone bridge",
    "a white lighthouse",
    "a round market hall",
    "a ruined castle",
    "a copper statue of a horse",
    "a big windmill",
    "a glass garden house",
    "a long pier",
    "a museum of toys",
    "a deep well",
    "a red brick mill",
    "a wooden church",
    "a famous orchard",
)
